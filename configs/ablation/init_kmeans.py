_base_ = "./converged_set.py"

ablation = dict(group="initialisation", name="K-means", seeds=1, learning_rates=())

custom_hooks = [
    *_base_.custom_hooks,
    dict(type="KMeansReferenceInitHook", num_images=256, max_samples=2000, seed=0),
]
