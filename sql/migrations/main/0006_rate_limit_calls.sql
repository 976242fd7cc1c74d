-- A high rate limit keeps a few times with numbers of calls, instead of the time of every call.

ALTER TABLE rate_limit_windows ADD COLUMN calls integer[];
COMMENT ON COLUMN rate_limit_windows.calls IS 'How many calls each element of hits stands for; null: one each.';
