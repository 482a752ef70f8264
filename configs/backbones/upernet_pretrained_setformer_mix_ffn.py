_base_ = "./upernet_pretrained_setformer.py"

ablation = dict(name="SeTformer, Mix-FFN")

model = dict(
    backbone=dict(
        mix_ffn=True,
        init_cfg=dict(
            checkpoint="ablation_output/backbones/classifier_setformer_mix_ffn/seed_0/epoch_12.pth"
        ),
    )
)
