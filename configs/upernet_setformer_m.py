_base_ = "./upernet_setformer_t.py"

model = dict(
    backbone=dict(
        arch="mini",
        init_cfg=dict(checkpoint="work_dirs/setformer_m_in1k/epoch_300.pth"),
    ),
)
