#!lua name=sidegate1
-- What verifiers call, so that they need no right to run scripts of their own. Issuers load this library.

-- The head of a partition's log in one atomic step: keys meta, log. Returns {v, epoch, last, since, partitions, newest
-- entry in the log, server's seconds, role, replication id, replicas not lagging, settled, min_replicas}, all of them
-- text; what is missing is ''. Replicas are counted by a master with min-replicas-to-write only.
local function probe(keys)
  local row = redis.call('HMGET', keys[1], 'v', 'epoch', 'last', 'since', 'partitions', 'settled', 'min_replicas')
  local newest = redis.call('XREVRANGE', keys[2], '+', '-', 'COUNT', 1)
  local replication = redis.call('INFO', 'replication')
  local function info(name) return string.match(replication, name .. ':(%w+)') or '' end
  return {row[1] or '', row[2] or '', row[3] or '', row[4] or '', row[5] or '', newest[1] and newest[1][1] or '',
    redis.call('TIME')[1], info('role'), info('master_replid'), info('min_slaves_good_slaves'), row[6] or '',
    row[7] or ''}
end

redis.register_function{function_name = 'sidegate1_probe', callback = probe, flags = {'no-writes'}}
