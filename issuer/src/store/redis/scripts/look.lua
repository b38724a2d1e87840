-- What the heartbeat looks at: KEYS meta, log; ARGV[4] partitions. Reads only. Returns {epoch, '' if the data set is lost;
-- position of the newest entry; since; the server's seconds; its replication id}.
local meta = look_at_meta()
local partitions = redis.call('HGET', META, 'partitions')
if partitions and partitions ~= ARGV[4] then return redis.error_reply('PARTITIONS ' .. partitions) end
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or ''
return {meta.epoch or '', meta.newest, meta.since, NOW, replid}
