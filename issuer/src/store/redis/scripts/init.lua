-- Makes the data set if it is lost, over what `replay.lua` has put into its log: KEYS meta, log; ARGV[4] epoch to use,
-- [5] partitions, [6] since when the log has everything ('': from now on), [7] the newest `iat` that this issuer has
-- handed out. Several issuers may race: the first one wins. Whoever is on the list of issuers has put nothing back into this
-- data set yet. Returns {epoch, 1 if made now}.
local meta = look_at_meta()
local partitions = redis.call('HGET', META, 'partitions')
if partitions and partitions ~= ARGV[5] then return redis.error_reply('PARTITIONS ' .. partitions) end
if meta.epoch then return {meta.epoch, 0} end
expect_server()
expect(ISSUERS, 'hash')
local rows = redis.call('HGETALL', ISSUERS)

redis.call('HSET', META, 'v', '1', 'partitions', ARGV[5], 'all', meta.all, 'peak', meta.peak, 'last', meta.newest,
  'since', ARGV[6] ~= '' and ARGV[6] or NOW - 1, 'made', string.format('%.0f', NOW_MS), 'epoch', ARGV[4])
raise_floor(meta, tonumber(ARGV[7]))
for i = 1, #rows, 2 do redis.call('HSET', ISSUERS, rows[i], '- ' .. string.match(rows[i + 1], '%S*$')) end
return {ARGV[4], 1}
