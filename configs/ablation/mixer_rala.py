_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="RALA")

model = dict(backbone=dict(attention=dict(type="RankAugmentedAttention")))
