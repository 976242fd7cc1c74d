-- name: lift_transaction_timeout
-- Override the role's transaction_timeout in this session. Servers before version 17 do not know it, so it cannot be in the
-- settings of the connection.
SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL;

-- name: lift_limits
-- Override defaults of the role that would interrupt or refuse a migration.
SELECT set_config(wanted.name, wanted.value, false)
  FROM (VALUES ('statement_timeout', '0'), ('lock_timeout', '0'), ('transaction_timeout', '0'),
               ('idle_in_transaction_session_timeout', '0'), ('default_transaction_isolation', 'read committed')) wanted(name, value)
 WHERE current_setting(wanted.name, true) IS NOT NULL;
