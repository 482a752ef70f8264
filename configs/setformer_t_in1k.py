_base_ = [
    "./_base_/models/setformer_classifier.py",
    "./_base_/datasets/imagenet.py",
    "./_base_/schedules/imagenet_300e.py",
    "./_base_/classification_runtime.py",
]

# References start from K-means centroids of training features.
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="KMeansReferenceInitHook", num_images=256, max_samples=20_000, seed=0),
]
