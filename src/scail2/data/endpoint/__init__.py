"""Questions to a vision-language model behind an OpenAI-compatible address: typed answers, budgets, nothing unasked."""
