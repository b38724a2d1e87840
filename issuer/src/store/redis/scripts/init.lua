-- Makes the data set if it is not there: KEYS meta, log; ARGV[4] epoch to use, ARGV[5] partitions, ARGV[6..] entries that
-- this issuer acknowledged lately, to be in the log before anyone can see the epoch. Idempotent: several issuers race.
-- Returns {epoch, 1 if made now, replication id}.
expect(META, 'hash')
local has_log = expect(LOG, 'stream')
local row = redis.call('HMGET', META, 'v', 'epoch', 'last', 'partitions', 'all', 'peak')
if row[1] and row[1] ~= '1' then error({err = 'BADVERSION the revocation log is of another version'}) end
if row[4] and row[4] ~= ARGV[5] then return redis.error_reply('PARTITIONS ' .. row[4]) end
local replication = redis.call('INFO', 'replication')
local replid = string.match(replication, 'master_replid:(%x+)') or ''
if row[2] and row[3] and (row[3] == '0-0' or has_log) then return {row[2], 0, replid} end

redis.call('HSET', META, 'v', '1', 'partitions', ARGV[5], 'all', row[5] or '0', 'peak', row[6] or '0', 'last', '0-0')
local meta = {epoch = ARGV[4], last = '0-0'}
for i = 6, #ARGV do append(meta, ARGV[i]) end
redis.call('HSET', META, 'since', NOW - 1, 'epoch', ARGV[4])
return {ARGV[4], 1, replid}
