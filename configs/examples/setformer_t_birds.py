# Three classes of one's own: data/birds/{train,val}/{crow,gull,owl}/*.jpg
_base_ = "../setformer_t_in1k.py"

data_root = "data/birds"
metainfo = dict(classes=("crow", "gull", "owl"))

model = dict(
    data_preprocessor=dict(num_classes=3),  # Mixup makes vectors of labels
    head=dict(num_classes=3),
)

train_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))  # of three classes there are no five best
test_evaluator = val_evaluator
