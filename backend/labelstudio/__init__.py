"""Label Studio, and the only room that knows its JSON: projects, tasks, annotations, webhooks."""
