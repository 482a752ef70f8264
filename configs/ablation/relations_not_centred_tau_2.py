_base_ = "./relations_not_centred.py"

ablation = dict(name="SeT, not centred, tau 2")

model = dict(backbone=dict(attention=dict(tau=2.0)))
