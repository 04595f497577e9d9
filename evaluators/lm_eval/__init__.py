"""The bridge to lm-eval: its command line with our decoders, and its tasks as ours.

`python -m evaluators.lm_eval --model unmask --model_args pretrained=tiny-mdlm,decoder=prophet
--tasks ...` is lm-eval's own command; `tasks.wrap` turns one of its generative tasks into a
`Task`. Nothing is imported here: lm-eval takes seconds, and only what asks for it shall pay.
"""
