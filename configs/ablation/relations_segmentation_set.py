# The relational task as segmentation. Controls cannot tell the two digits apart.
_base_ = "../digits/fcn_setformer_relations.py"

ablation = dict(
    group="relational task, segmentation",
    name="SeT",
    baselines={"relational task, segmentation": "SeT"},
    seeds=3,
)
