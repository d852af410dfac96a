import { buildAll } from '../../../build.mjs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { inThisThread } from '../../../agent/trust/examiner.ts'
import { examinerIdleMs, examinerTimeoutMs, ThreadExaminer } from '../../../agent/trust/thread-examiner.ts'
import { systemClock } from '../../../core/clock.ts'
import { NO_DOCUMENTS } from '../../../core/trust/documents.ts'
import { filesOf } from '../../../core/tuf/push.ts'
import { FakeClock } from '../../fakes/clock.ts'
import { flipBit, makeBundle, makeKey, trust } from '../../fixtures/bundles.ts'
import { BORN_MS, Repository } from './tuf/repository.ts'

let text: string
t.before(async () => {
  const out = await mkdtemp(join(tmpdir(), 'obx-examiner-'))
  t.teardown(async () => await rm(out, { recursive: true, force: true }))
  await buildAll({ out })
  text = await readFile(join(out, 'examiner.js'), 'utf8')
})

const key = makeKey()
const file = makeBundle(key, { name: 'counter', version: '1.0.0' }, '/'.repeat(100_000))

t.test('a thread finds what this one would, and this one goes on meanwhile', async (t) => {
  const thread = new ThreadExaminer({ clock: systemClock, text })
  t.teardown(() => thread.close())
  const here = inThisThread()
  let turns = 0
  const turning = setInterval(() => turns++, 1)
  const bundle = await thread.bundle(file, trust(key))
  clearInterval(turning)
  t.ok(turns > 3, `${turns} turns of the event loop while a signature was verified`)
  t.same(bundle, await here.bundle(file, trust(key)))
  t.equal(file.length > 100_000 && bundle.payload.length, 100_000, 'and the file is still here')
  await t.rejects(thread.bundle(file, trust(makeKey())), { code: 'BUNDLE_UNTRUSTED' })
  await t.rejects(thread.bundle(flipBit(file, -5), trust(key)), { code: 'BUNDLE_CORRUPT' })

  const repository = new Repository()
  const path = repository.release('telemetry', '1.1.0')
  const { anchor } = repository
  const request = {
    ...{ anchor, stored: NO_DOCUMENTS, files: filesOf(repository.push()), paths: [path], floor: null },
    time: [{ source: 'build' as const, nowMs: BORN_MS, keys: null }],
  }
  const [there, found] = await Promise.all([thread.metadata(request), here.metadata(request)])
  t.same(there, found)
  t.match(there, { refreshed: true, targets: [{ path }], refusal: null })
  t.match(await thread.metadata({ ...request, paths: ['services/no/1.0.0.offbox'] }), { targets: [], refusal: { code: 'TRUST_UNLISTED' } })
  await t.rejects(thread.metadata({ ...request, anchor: flipBit(anchor, 3) }), { code: 'TRUST_MALFORMED' })
})

t.test('the thread ends when there has been nothing to do, and comes back', async (t) => {
  const clock = new FakeClock()
  const thread = new ThreadExaminer({ clock, text })
  t.teardown(() => thread.close())
  t.notOk(thread.running)
  await thread.bundle(file, trust(key))
  await clock.advance(examinerIdleMs - 1)
  t.ok(thread.running)
  await clock.advance(1)
  t.notOk(thread.running)
  t.match(await thread.bundle(file, trust(key)), { keyIds: [key.keyId] })
})

t.test('signatures that one thread found good, the next one does not verify again', async (t) => {
  const clock = new FakeClock()
  const repository = new Repository()
  const { anchor } = repository
  const path = repository.release('telemetry', '1.1.0')
  const request = {
    ...{ anchor, stored: NO_DOCUMENTS, files: filesOf(repository.push()), paths: [path], floor: null },
    time: [{ source: 'build' as const, nowMs: BORN_MS, keys: null }],
  }
  // Tells, before the answer that is expected, how many verdicts it began with.
  const telling = `{
      const { parentPort: port, workerData } = require('node:worker_threads')
      const began = workerData.verdicts.length
      port.on('message', ({ id, kind }) => kind === 'bundle' && port.postMessage({ id, value: { began } }))
    }
    ${text}`
  const thread = new ThreadExaminer({ clock, text: telling })
  t.teardown(() => thread.close())
  t.match(await thread.bundle(file, trust(key)), { began: 0 })
  const found = await thread.metadata(request)
  await clock.advance(examinerIdleMs)
  t.notOk(thread.running)
  const { began } = (await thread.bundle(file, trust(key))) as unknown as { began: number }
  t.ok(began >= 4, `${began} verdicts: root, timestamp, snapshot, targets`)
  t.same(await thread.metadata(request), found)
  await t.rejects(
    thread
      .metadata({ ...request, files: new Map([...request.files].map(([name, bytes]) => [name, name === 'timestamp.json' ? flipBit(bytes, 40) : bytes])) })
      .then(({ refusal }) => Promise.reject(refusal)),
    { code: /TRUST_/ },
  )
})

t.test('what brings the thread down fails its own questions and no later one', async (t) => {
  const clock = new FakeClock()
  const dying = `const { parentPort } = require('node:worker_threads'); parentPort.on('message', ({ id }) => { if (id === 1) process.exit(3); else for (;;) {} })`
  const thread = new ThreadExaminer({ clock, text: dying })
  t.teardown(() => thread.close())
  await t.rejects(thread.bundle(file, trust(key)), { code: 'LIMIT_REACHED', message: /thread ended/ })
  const hanging = thread.bundle(file, trust(key))
  const refused = t.rejects(hanging, { code: 'LIMIT_REACHED', message: /took longer/ })
  await clock.advance(examinerTimeoutMs)
  await refused
  t.notOk(thread.running)
  const hungry = new ThreadExaminer({
    clock,
    text: `require('node:worker_threads').parentPort.on('message', () => { const all = []; for (;;) all.push({ all }) })`,
  })
  t.teardown(() => hungry.close())
  await t.rejects(hungry.bundle(file, trust(key)), { code: 'LIMIT_REACHED', message: /memory/ })
})

t.test('after the end nothing is asked any more', async (t) => {
  const thread = new ThreadExaminer({ clock: systemClock, text })
  const asked = t.rejects(thread.bundle(file, trust(key)), { code: 'STATE_REFUSED' })
  thread.close()
  await asked
  await t.rejects(thread.bundle(file, trust(key)), { code: 'STATE_REFUSED' })
  t.notOk(thread.running)
})
