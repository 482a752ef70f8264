_base_ = "./relations_set.py"

ablation = dict(name="RALA")

model = dict(backbone=dict(attention=dict(type="RankAugmentedAttention")))
