_base_ = "./mixer_set.py"

ablation = dict(group="initialisation", name="K-means")

custom_hooks = [
    *_base_.custom_hooks,
    dict(type="KMeansReferenceInitHook", num_images=256, max_samples=2000, seed=0),
]
