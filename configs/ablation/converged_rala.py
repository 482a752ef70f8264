_base_ = "./converged_set.py"

ablation = dict(name="RALA", seeds=3)

model = dict(backbone=dict(attention=dict(type="RankAugmentedAttention")))
