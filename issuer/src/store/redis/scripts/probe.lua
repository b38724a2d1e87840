-- Succeeds if this server would take a revocation now: KEYS meta, log. Writes nothing new, but is refused wherever a
-- write would be (read-only replica, no memory, too few replicas).
local meta = load_meta()
redis.call('HSET', META, 'last', meta.last)
return 1
