# The relational task, of which window and none, the controls, can learn half at most.
_base_ = "../digits/setformer_relations.py"

ablation = dict(
    group="relational task",
    name="SeT",
    baselines={"relational task": "SeT"},
    seeds=3,
)
