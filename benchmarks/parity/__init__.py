"""How far the fast path of sana-wm in bf16 is from plain torch in fp32, beside plain torch in bf16."""
