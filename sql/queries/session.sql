-- name: begin_session
-- The mark that was sent among the settings of the session, or null if something in between dropped it. Overrides the role's
-- transaction_timeout; servers before version 17 do not know it, so it cannot be among the settings of the session.
SELECT current_setting('contact_exports.session', true) AS mark,
       CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL
            THEN set_config('transaction_timeout', '0', false) END AS transaction_timeout;

-- name: lift_limits
-- Override defaults of the role that would interrupt or refuse a migration.
SELECT set_config(wanted.name, wanted.value, false)
  FROM (VALUES ('statement_timeout', '0'), ('lock_timeout', '0'), ('transaction_timeout', '0'),
               ('idle_in_transaction_session_timeout', '0'), ('default_transaction_isolation', 'read committed')) wanted(name, value)
 WHERE current_setting(wanted.name, true) IS NOT NULL;
