"""What is compared, for tools to offer: it imports nothing, and so takes no time."""

TASK_NAMES = ("listops-500", "listops-2000", "docstrings")

# The same for all: two blocks of 64 channels.
MODEL = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128
)

# What stands in the attention slot, by its name in tables.
MIXERS = {
    "SeT": dict(type="SeTAttention"),
    "softmax": dict(type="SoftmaxAttention"),
    "cosFormer": dict(type="CosFormerAttention"),
    "Flow-Attention": dict(type="FlowAttention"),
    "Nystromformer": dict(type="NystromAttention"),
    "none": dict(type="NoMixing"),
}
