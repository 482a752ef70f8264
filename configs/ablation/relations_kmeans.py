_base_ = "./relations_set.py"

ablation = dict(name="SeT, K-means")

custom_hooks = [
    *_base_.custom_hooks,
    dict(type="KMeansReferenceInitHook", num_images=256, max_samples=2000, seed=0),
]
