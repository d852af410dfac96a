import t from 'tap'
import { IdentityStore } from '../../../agent/boot/identity.ts'
import { Membership } from '../../../agent/boot/membership.ts'
import { AtomicFiles } from '../../../agent/store/atomic.ts'
import type { Lesson } from '../../../agent/trust/device-trust.ts'
import { FloorStore } from '../../../agent/trust/floors.ts'
import { readStatement } from '../../../core/trust/statement.ts'
import { trust as trusted } from '../../fixtures/bundles.ts'
import { FLEET, makeLab } from '../agent-process.ts'

t.setTimeout(120_000)

t.test('a device asks the witness a new question at each attempt, and again every minute until it is answered', async (t) => {
  const lab = await makeLab([], { trust: true })
  t.teardown(() => lab.close())
  const timers: { delayMs: number; callback: () => void }[] = []
  const after = (delayMs: number, callback: () => void) => {
    timers.push({ delayMs, callback })
    return () => {}
  }
  const files = new AtomicFiles()
  const stateDir = t.testdir()
  const anchors = { fleet: FLEET, caPem: lab.ca.certificatePem, bundleKeys: trusted(lab.key) }
  const [questions, lessons]: [Uint8Array[], Lesson[]] = [[], []]
  let wake = () => {}
  const trust = {
    needsWitness: true,
    question: () => {
      const challenge = new Uint8Array(crypto.getRandomValues(new Uint8Array(32)))
      questions.push(challenge)
      return { challenge, rootVersion: 1 }
    },
    learn: async (lesson: Lesson) => void lessons.push(lesson),
  }
  const membership = new Membership({
    ...{ anchors, trust, clock: { nowMs: Date.now, monotonicMs: () => performance.now(), after } },
    controller: { address: '127.0.0.1', port: lab.controllerPort },
    facts: { serial: 'SN', mac: '02:00:00:00:00:01', address: '127.0.0.1', port: 1, bootId: 'b', boot: 'local', agentVersion: '0' },
    uptimeMs: () => 0,
    log: { info: () => {}, warn: () => {}, error: () => {} },
    identities: new IdentityStore(files, stateDir),
    floors: new FloorStore(files, stateDir, trusted(lab.key)),
    adopt: async () => wake(),
  })
  t.teardown(() => membership.close())
  const adopted = async (act: () => unknown) => {
    const done = new Promise<void>((resolve) => {
      wake = resolve
    })
    await act()
    await done
    // The pause until the next look is armed after it.
    while (timers.length === 0) await new Promise((resolve) => setImmediate(resolve))
    return timers.splice(0)
  }
  t.same((await membership.identity()).enrolled, true)
  timers.splice(0)
  membership.keep(true)
  const first = timers.splice(0)
  t.match(first, [{ delayMs: 60_000 }], 'it has just asked, and will ask again')
  const second = await adopted(() => first[0]?.callback())
  t.match(second, [{ delayMs: 60_000 }])
  trust.needsWitness = false
  second[0]?.callback()
  while (timers.length === 0) await new Promise((resolve) => setImmediate(resolve))
  t.match(timers, [{ delayMs: 3_600_000 }], 'then it looks at its certificate now and then')
  t.equal(lab.enrolments.length, 2)
  t.equal(new Set(questions.map((nonce) => Buffer.from(nonce).toString('hex'))).size, 2, 'never the same question')
  for (const [index, { witness, evidence }] of lessons.entries()) {
    const statement = witness && readStatement(witness, lab.trust?.anchors.witnessKeys ?? new Map())
    t.equal(statement?.nonce, Buffer.from(questions[index] ?? []).toString('hex'))
    t.ok(evidence.metadata.files.length >= 3)
  }
})
