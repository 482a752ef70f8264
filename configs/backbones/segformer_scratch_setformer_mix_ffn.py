_base_ = "./segformer_scratch_setformer.py"

ablation = dict(name="SeTformer, Mix-FFN")

model = dict(backbone=dict(mix_ffn=True))
