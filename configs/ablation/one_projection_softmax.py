# Queries, keys and values are one projection, as they are in SeT attention: the other
# token mixers with what SeT has, two layers around what mixes.
_base_ = "./mixer_softmax.py"

ablation = dict(group="token mixer, one projection")

model = dict(backbone=dict(attention=dict(one_projection=True)))
