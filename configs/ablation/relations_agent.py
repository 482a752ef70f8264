_base_ = "./relations_set.py"

ablation = dict(name="agent")

model = dict(backbone=dict(attention=dict(type="AgentAttention", agent_shape=(4, 4))))
