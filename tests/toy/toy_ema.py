_base_ = "toy_epochs.py"

custom_hooks = [dict(type="ExactResumeHook"), dict(type="EMAHook")]
