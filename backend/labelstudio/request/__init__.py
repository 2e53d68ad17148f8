"""What a request of Label Studio says: its task, its page, what is drawn and typed."""
