-- Notes how many replicas the server needs before it takes a write: KEYS meta, log; ARGV[4] min-replicas-to-write.
-- Verifiers may not read the server's configuration.
load_meta()
redis.call('HSET', META, 'min_replicas', ARGV[4])
return 1
