# Nearly as good with the first seed as the best learning rate, at which one of three
# seeds learns nothing.
_base_ = "./converged_flow.py"

ablation = dict(name="Flow-Attention, learning rate 1e-3", learning_rates=(1e-3,))
