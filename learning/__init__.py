"""What would be better? Programs, prompts, language models, and everything DSPy.

Law of this room: DSPy is imported by `adapters`, `lms`, `modules`, `programs`, `running`, the engines and three files
of `compiling/`, by nothing else and by no other room. Compiling happens in a process of its own. A prompt, a price or a
model name is this room's business; an arm's statistics, SQL and HTTP are not.
"""
