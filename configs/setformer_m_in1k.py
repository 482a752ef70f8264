_base_ = "./setformer_t_in1k.py"

model = dict(backbone=dict(arch="mini"))
