_base_ = "./mixer_set.py"

ablation = dict(group="token mixer", name="agent")

model = dict(backbone=dict(attention=dict(type="AgentAttention", agent_shape=(4, 4))))
