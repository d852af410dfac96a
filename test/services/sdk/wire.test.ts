import t from 'tap'
import { SERVICE_LIMITS } from '../../../core/manifest.ts'
import { exactCopy, LogLimit, Outbox, readFromWorker, readHealth, readSnapshot, toWireError, WIRE_LIMITS } from '../../../services/sdk/wire.ts'

t.test('the messages of one turn go together when it ends, in order, with what they own', async (t) => {
  const batches: number[][] = []
  const transfers: ArrayBuffer[][] = []
  const outbox = new Outbox<number>((batch, transfer) => {
    batches.push(batch)
    transfers.push(transfer)
  })
  const owned = new Uint8Array(3)
  for (const one of [1, 2, 3]) outbox.send(one)
  outbox.send(4, owned)
  t.same(batches, [])
  await new Promise((resolve) => setImmediate(resolve))
  t.same(batches, [[1, 2, 3, 4]])
  t.equal(transfers[0]?.[0], owned.buffer)
  outbox.send(5)
  await new Promise((resolve) => setImmediate(resolve))
  t.same(batches, [[1, 2, 3, 4], [5]])
  t.same(transfers[1], [])
})

t.test('a copy shows nothing of the pool it came from', async (t) => {
  const pooled = Buffer.from('ten bytes!')
  const copy = exactCopy(pooled)
  t.equal(copy.buffer.byteLength, 10)
  t.not(copy.buffer, pooled.buffer)
})

t.test('every malformed message from a worker is refused', async (t) => {
  const bytes = new Uint8Array(1)
  const opening = (metadata: unknown) => ({ type: 'channelOpen', channel: 1, method: '/t/T', kind: 'unary', metadata })
  const keys = Array.from({ length: WIRE_LIMITS.metadataKeysMax + 1 }, (_, index) => [`key-${index}`, 'v'] as const)
  const good = [
    { type: 'data', call: 1, bytes },
    { type: 'end', call: 1 },
    { type: 'end', call: 1, bytes },
    { type: 'end', call: 1, error: { code: 'INTERNAL', message: '' } },
    { type: 'cancelled', call: 1 },
    { type: 'credit', call: 1, count: 1 },
    { type: 'done', id: 1, value: {} },
    { type: 'capability', id: 1, capability: 'proc', operation: 'read', input: undefined },
    { type: 'log', level: 'info', message: 'm', fields: {} },
    opening({}),
    opening({ 'x-trace.id_1': 'v'.repeat(WIRE_LIMITS.metadataCharsMax), ['k'.repeat(64)]: '' }),
    opening(Object.fromEntries(keys.slice(1))),
  ]
  t.equal(readFromWorker(good), good)
  const bad: unknown[] = [
    null,
    'text',
    {},
    { type: 'nonsense' },
    { type: 'data', call: -1, bytes },
    { type: 'data', call: 1.5, bytes },
    { type: 'data', call: 1, bytes: 'text' },
    { type: 'data', call: 1, bytes: new Uint8Array(WIRE_LIMITS.messageBytesMax + 1) },
    { type: 'end', call: 1, error: { code: 'NO_SUCH_CODE', message: '' } },
    { type: 'end', call: 1, error: null },
    { type: 'end', call: 1, error: { code: 'INTERNAL', message: 'x'.repeat(WIRE_LIMITS.errorCharsMax + 1) } },
    { type: 'credit', call: 1, count: 1e9 },
    { type: 'done', id: '1' },
    { type: 'capability', id: 1, capability: 7, operation: 'read' },
    { type: 'log', level: 'shout', message: 'm', fields: {} },
    { type: 'log', level: 'info', message: 'm', fields: null },
    opening(null),
    opening(Object.fromEntries(keys)),
    opening({ key: 1 }),
    opening({ key: 'v'.repeat(WIRE_LIMITS.metadataCharsMax + 1) }),
    ...['', 'Upper', 'a b', 'a\nb', ':path', 'k'.repeat(65), 'offbox-call-depth'].map((key) => opening({ [key]: 'v' })),
  ]
  for (const one of bad) t.throws(() => readFromWorker([one]), { message: /malformed/ }, JSON.stringify(one)?.slice(0, 60))
  t.throws(() => readFromWorker(good[0]), { message: 'not a batch' })
})

t.test('health and snapshots are read back clean, or refused', async (t) => {
  t.same(readHealth({ status: 'degraded', reason: 'r', evidence: { up: 1 }, extra: 1 }), { status: 'degraded', reason: 'r', evidence: { up: 1 } })
  for (const bad of [null, {}, { status: 'fine', evidence: {} }, { status: 'healthy' }, { status: 'healthy', evidence: { up: '1' } }])
    t.throws(() => readHealth(bad))
  const snapshot = { schema: 2, bytes: new Uint8Array(3), checksum: 0xff41d912 }
  t.same(readSnapshot(snapshot, 2), snapshot)
  for (const bad of [null, { schema: 1, bytes: new Uint8Array() }, { schema: 2, bytes: 'text' }]) t.throws(() => readSnapshot(bad, 2))
})

t.test('an error keeps its code whatever class it is of; anything else is INTERNAL', async (t) => {
  t.same(toWireError({ code: 'CONFIG_INVALID', message: 'm' }), { code: 'CONFIG_INVALID', message: 'm' })
  t.match(toWireError(Object.assign(new Error('m'), { code: 'ENOENT' })), { code: 'INTERNAL', message: 'm' })
  t.match(toWireError(undefined), { code: 'INTERNAL' })
  t.equal(toWireError(new Error('x'.repeat(9_999))).message.length, WIRE_LIMITS.errorCharsMax)
})

t.test('a burst of lines passes, then so many a second, and what was dropped is counted and told once', async (t) => {
  const told: number[] = []
  const waiting: (() => void)[] = []
  const limit = new LogLimit({ perSecond: 50, later: (_, callback) => waiting.push(callback), tell: (count) => told.push(count) })
  let passed = 0
  for (let line = 0; line < 1_000; line++) if (limit.admit(1_000)) passed++
  t.equal(passed, 50 * WIRE_LIMITS.logBurstS)
  t.equal(limit.admit(1_100), true)
  limit.dropped(5)
  t.equal(waiting.length, 1)
  waiting[0]?.()
  t.same(told, [805])
})

t.test('a service that asks for no rate of log lines has the one that its manifest would show', async (t) => {
  t.equal(WIRE_LIMITS.logLinesPerSecondMax, SERVICE_LIMITS.logLinesPerSecondMax.usual)
})
