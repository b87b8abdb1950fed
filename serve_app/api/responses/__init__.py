"""OpenAI's protocol of responses, as a translation of chats. Stores nothing."""
