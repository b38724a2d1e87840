-- Kills every token of the partition, and the sessions created until then: KEYS meta, log; ARGV[4] head byte of the entry,
-- [5] max token lifetime, [6] the newest `iat` that the issuer remembers. The threshold reaches every `iat` ever given
-- here, also one that is ahead of the clock. Returns {threshold, position}.
local meta, newest = load_meta(), tonumber(ARGV[6])
local threshold = math.max(NOW, meta.all, meta.all_tokens, meta.peak, meta.floor, newest)
check_threshold(threshold)

raise_floor(meta, newest)
append(meta, ARGV[4] .. seconds(threshold + tonumber(ARGV[5]) + MARGIN) .. seconds(threshold))
redis.call('HSET', META, 'all', threshold, 'peak', threshold)
return {threshold, meta.last}
