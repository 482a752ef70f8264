# A point worse with the first seed than the best learning rate, at which one of three
# seeds learns nothing.
_base_ = "./converged_cosformer.py"

ablation = dict(name="cosFormer, learning rate 1e-3", learning_rates=(1e-3,))
