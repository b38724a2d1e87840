-- Makes the data set if it is lost, over what `replay.lua` has put into its log: KEYS meta, log; ARGV[4] epoch to use,
-- [5] partitions, [6] since when the log has everything ('': from now on). Several issuers may race: the first one wins.
-- Returns {epoch, 1 if made now}.
local meta = look_at_meta()
local partitions = redis.call('HGET', META, 'partitions')
if partitions and partitions ~= ARGV[5] then return redis.error_reply('PARTITIONS ' .. partitions) end
if meta.epoch then return {meta.epoch, 0} end

redis.call('HSET', META, 'v', '1', 'partitions', ARGV[5], 'all', meta.all, 'peak', meta.peak, 'last', meta.newest,
  'since', ARGV[6] ~= '' and ARGV[6] or NOW - 1, 'epoch', ARGV[4])
return {ARGV[4], 1}
