_base_ = "./relations_centred.py"

ablation = dict(name="SeT, centred, tau 2")

model = dict(backbone=dict(attention=dict(tau=2.0)))
