_base_ = "./converged_set.py"

ablation = dict(name="SeT, one set of references", seeds=3)

model = dict(backbone=dict(attention=dict(return_references=False)))
