-- What a rescue has to do: counters to fold, leases that have expired, silent nodes to forget. Asked each
-- second by every node, so one look is all that an idle one costs.
SELECT
    EXISTS (SELECT FROM trioqueue.counter_changes),
    EXISTS (
        SELECT FROM trioqueue.live WHERE status = 'processing' AND lease_until <= trioqueue.now()
    ),
    EXISTS (
        SELECT FROM trioqueue.nodes WHERE seen_at < trioqueue.now() - make_interval(secs => %(silent_seconds)s)
    );
