"""The names that spans and their attributes go by.

OpenTelemetry's semantic conventions: HTTP (stable) and GenAI (in development; as of semantic-conventions-genai in
November 2026). A convention that changes changes here.
"""

from typing import Final

INVOKE_WORKFLOW: Final = "invoke_workflow"
"""The operation of one try: a program is a process of calls of language models."""
CHAT: Final = "chat"
JOURNAL: Final = "journal append"

OPERATION: Final = "gen_ai.operation.name"
WORKFLOW: Final = "gen_ai.workflow.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"

ERROR: Final = "error.type"
METHOD: Final = "http.request.method"
ROUTE: Final = "http.route"
PATH: Final = "url.path"
SCHEME: Final = "url.scheme"
STATUS: Final = "http.response.status_code"

PROGRAM: Final = "ratchet.program"
VARIANT: Final = "ratchet.variant"
ASSIGNED_VARIANT: Final = "ratchet.assigned_variant"
EXPERIMENT: Final = "ratchet.experiment_id"
PREDICTION: Final = "ratchet.prediction_id"
COST: Final = "ratchet.cost_usd"
"""Exact, as everywhere: a decimal string."""

CAPTURE_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The variable by which an operator asks for prompts and answers in spans; CAPTURED are the values that do."""
CAPTURED: Final = ("true", "span_only", "span_and_event")

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


def provider_and_model(name: str) -> tuple[str, str]:
    """The conventions' name of a model's provider, and the model's own name.

    >>> provider_and_model("gemini/gemini-3-pro")
    ('gcp.gemini', 'gemini-3-pro')
    >>> provider_and_model("sim/triage")
    ('sim', 'triage')
    """
    family, _, model = name.partition("/")
    return _PROVIDERS.get(family, family), model or name
