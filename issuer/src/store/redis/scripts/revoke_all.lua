-- Kills every token of the partition: KEYS meta, log; ARGV[4] head byte of the entry, [5] max token lifetime.
-- The threshold reaches every `iat` ever given here, also one that is ahead of the clock. Returns {threshold, position}.
local meta = load_meta()
local threshold = math.max(NOW, meta.all, meta.peak)

append(meta, ARGV[4] .. seconds(threshold + tonumber(ARGV[5]) + MARGIN) .. seconds(threshold))
redis.call('HSET', META, 'all', threshold, 'peak', threshold)
return {threshold, meta.last}
