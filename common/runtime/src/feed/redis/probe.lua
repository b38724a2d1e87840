-- The head of a partition's log in one atomic step: KEYS meta, log. Reads only, so that a verifier needs no right to
-- write. Returns {v, epoch, last, since, partitions, newest entry in the log, server's seconds, role, replication id,
-- replicas not lagging, settled}; a replica's or an unlimited master's count of replicas is empty. `settled` is the
-- lineage, `EPOCH SP REPLID`, into which every listed issuer has replayed.
local row = redis.call('HMGET', KEYS[1], 'v', 'epoch', 'last', 'since', 'partitions', 'settled')
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local replication = redis.call('INFO', 'replication')
local function info(name) return string.match(replication, name .. ':(%w+)') or '' end
return {row[1] or '', row[2] or '', row[3] or '', row[4] or '', row[5] or '', newest[1] and newest[1][1] or '',
  redis.call('TIME')[1], info('role'), info('master_replid'), info('min_slaves_good_slaves'),
  row[6] or ''}
