"""The parts of `inhouse init`: prompts, recommendation of a model, editing `.env`."""
