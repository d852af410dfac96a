/** `offbox why` against a device of a local lab, with all that a lab has: repository, policy, witness, rollouts, collected audit log. */
import { execFile } from 'node:child_process'
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { readSigningKey } from '../../../fleet/home/keys.ts'
import { buildBundle, signBundle } from '../../../fleet/registry/make.ts'
import type { Answer, Question, Standing } from '../../../fleet/why/statement.ts'
import { labFor, noLab } from '../../integration/lab-under-test.ts'
import { until } from '../harness.ts'

const root = join(import.meta.dirname, '../../..')

const standings = ({ statements }: Answer, question: Question): Standing[] => statements.filter((one) => one.question === question).map((one) => one.standing)

t.test('a device of a lab', { skip: noLab('local'), timeout: 800_000 }, async (t) => {
  const lab = await labFor(t, { devices: 2, local: true })
  const offbox = async (...args: string[]): Promise<{ code: number; out: string }> => {
    const run = promisify(execFile)(process.execPath, [join(root, 'fleet/cli/offbox.mjs'), ...args, '--home', lab.home.path], { maxBuffer: 64 * 1024 * 1024 })
    return await run.then(
      ({ stdout }) => ({ code: 0, out: stdout }),
      (error: { code: number; stdout: string; stderr: string }) => ({ code: error.code, out: `${error.stdout}${error.stderr}` }),
    )
  }
  const asked = async (...args: string[]): Promise<{ code: number; answer: Answer }> => {
    const { code, out } = await offbox('why', ...args, '--json')
    return { code, answer: JSON.parse(out.trim().split('\n').at(-1) ?? '') as Answer }
  }
  const order = { service: 'telemetry', version: '1.1.0', bakeMs: 1_000, deviceIds: ['sw1', 'sw2'], canary: 'sw1' }
  for await (const rollout of lab.client.rollOut(order, lab.signal)) if (rollout.endedAtMs > 0) t.equal(rollout.state, 'succeeded', rollout.reason)

  await t.test('a gRPC method is answered with change, author, commit, keys, listing, policy and gate, all of it checked', async (t) => {
    const { code, answer } = await asked('sw2', '/offbox.v1.Telemetry/Get')
    t.equal(code, 0)
    t.match(answer, { deviceId: 'sw2', service: 'telemetry', version: '1.1.0', verdict: 'answered' })
    const { facts } = answer
    t.match(facts.change, { kind: 'upgrade', from: '1.0.0', to: '1.1.0', manifestSha256: facts.runs?.['manifestSha256'] })
    t.match(facts.author, {
      principal: 'spiffe://lab/controller/main',
      orderReason: 'rollout r-0001 attempt 1',
      rollout: 'r-0001',
      startedBy: /^spiffe:\/\/lab\/operator\//,
    })
    t.match(facts.source, { commit: /^[0-9a-f]{40}$/, folder: 'services/telemetry' })
    t.match(facts.keys, { keys: [{ keyId: (await readSigningKey(lab.home)).keyId, of: ['anchors'] }] })
    t.match(facts.listed, { role: 'service-telemetry', manifestSha256: facts.runs?.['manifestSha256'], anchoredAt: 1, rootThreshold: 2 })
    t.match(facts.policy, { broken: null, version: facts.policy?.['deviceVersion'] })
    t.match(facts.gate, {
      rollout: 'r-0001',
      place: 2,
      of: 2,
      canary: false,
      evidence: { health: 'healthy', healthBefore: 'healthy', numbers: { birdAnswers: 1 } },
    })
    t.ok(Number(facts.gate?.['provisionalMs']) >= 1_000, 'no shorter than the bake, by the receipt')
    for (const question of ['change', 'log', 'source', 'keys', 'listed', 'policy'] as const) {
      t.ok(standings(answer, question).length > 0 && standings(answer, question).every((one) => one === 'verified'), question)
    }
    t.same(standings(answer, 'runs'), ['stated'], 'what runs now is the word of the device, and said to be')
    t.match((await asked('sw1', 'telemetry')).answer.facts.gate, { place: 1, canary: true })
  })

  await t.test('what the controller installed by itself, a configured value, and the agent are answered, each by who knows', async (t) => {
    const secrets = await asked('sw1', 'secrets')
    t.match(secrets, {
      code: 0,
      answer: {
        verdict: 'answered',
        facts: { author: { orderReason: 'desired state of sw1', desiredBy: /^spiffe:\/\/lab\/operator\// }, gate: { rollout: null } },
      },
    })
    const value = await asked('sw1', 'routing:neighbors.sw2.peerAs')
    t.match(value, { code: 0, answer: { service: 'routing', facts: { value: { value: 65_002, asDesired: true }, change: { kind: 'config' } } } })
    t.match(value.answer.facts.author, {
      principal: 'spiffe://lab/controller/main',
      orderReason: /^desired state of sw1, configuration /,
      desiredBy: /operator/,
    })
    t.same(standings(value.answer, 'change'), ['verified', 'stated'], 'and whether an earlier one had put the same value there is said not to be known')
    t.match(await offbox('why', 'sw1', 'routing:neighbors.sw9'), { code: 2, out: /nothing at neighbors\.sw9: neighbors has sw2/ })
    t.match(await offbox('why', 'sw1', 'telemetry:interval'), { code: 2, out: /no configuration that can be read/ })
    t.match(await offbox('why', 'sw1', '/offbox.v1.Nothing/Get'), { code: 1, out: /SERVICE_NOT_FOUND: nothing on sw1 serves/ })
    const agent = await asked('sw1', '/offbox.v1.Lifecycle/List')
    t.match(agent, { code: 5, answer: { service: 'agent', verdict: 'incomplete' } }, 'a local agent comes from no image: that is said')
  })

  await t.test('a version that did not stay is told as tried, and what runs is still answered', async (t) => {
    const { file } = await buildBundle(join(root, 'test/fixtures/services/telemetry-throws-at-start'), '1.2.0')
    const path = join(lab.home.path, 'bad.offbox')
    writeFileSync(path, signBundle(file, await readSigningKey(lab.home)))
    t.match(await offbox('bundle', 'push', path), { code: 0 })
    for await (const rollout of lab.client.rollOut({ ...order, version: '1.2.0', deviceIds: ['sw1'] }, lab.signal)) void rollout
    const { code, answer } = await asked('sw1', 'telemetry')
    t.match({ code, answer }, { code: 0, answer: { version: '1.1.0', verdict: 'answered' } })
    t.match(
      answer.statements.filter(({ question }) => question === 'since'),
      [{ standing: 'verified', text: /upgrade 1\.2\.0, .*was rolled back/ }],
    )
    t.match(await offbox('why', 'sw1', 'telemetry'), { out: /TRIED SINCE, AND UNDONE\n {2}verified {2}change c-\d+/ })
  })

  const [receipts, log] = [join(lab.home.path, 'sw1.json'), join(lab.home.path, 'sw1.audit')]
  const files = ['--receipts', receipts, '--audit', log]

  await t.test('without asking anybody, what was kept answers the same; what only the device knows is missing', async (t) => {
    writeFileSync(receipts, (await offbox('service', 'receipts', 'sw1', '--json')).out)
    const newest = (await asked('sw1', 'telemetry')).answer.facts.log?.['end']
    await until(
      'the collector has signed for the end of the change',
      async () => JSON.parse((await offbox('audit', 'status', 'sw1', '--json')).out) as { devices: { countersigned: number }[] },
      ({ devices }) => (devices[0]?.countersigned ?? 0) >= Number(newest),
    )
    t.match(await offbox('audit', 'export', 'sw1', '--out', log), { code: 0 })
    const { code, answer } = await asked('sw1', 'telemetry', ...files)
    t.match({ code, answer }, { code: 0, answer: { version: '1.1.0', verdict: 'answered', facts: { author: { rollout: 'r-0001' }, log: { end: newest } } } })
    t.match(answer.statements[0]?.text, /whether it runs now is not known/)
    t.match(await asked('sw1', 'secrets', ...files), { code: 0, answer: { facts: { author: { desiredBy: /operator/ } } } })
    t.match((await asked('sw1', 'telemetry', '--receipts', receipts)).code, 5, 'without the log, that is not known')
    t.match(await offbox('why', 'sw2', 'telemetry', ...files), { code: 2, out: /receipts of sw1, not of sw2/ })
  })

  await t.test('an export that was tampered with is refuted: a receipt, a record of the log, one taken out', async (t) => {
    const [whole, text] = [readFileSync(receipts, 'utf8'), readFileSync(log, 'utf8')]
    const refuted = async (what: string, question: Question) => {
      const { code, answer } = await asked('sw1', 'telemetry', ...files)
      t.match({ code, verdict: answer.verdict }, { code: 6, verdict: 'refuted' }, what)
      t.ok(standings(answer, question).includes('refuted'), `${what}: ${question}`)
    }
    writeFileSync(receipts, whole.replaceAll('spiffe://lab/controller/main', 'spiffe://lab/operator/main'))
    await refuted('another author in a receipt', 'change')
    writeFileSync(receipts, whole)
    writeFileSync(log, text.replace('rollout r-0001 attempt 1', 'rollout r-0009 attempt 1'))
    await refuted('another order in the log', 'log')
    const lines = text.split('\n')
    writeFileSync(
      log,
      lines
        .toSpliced(
          lines.findIndex((line) => line.includes('rollout r-0001 attempt 1')),
          1,
        )
        .join('\n'),
    )
    await refuted('a record taken out', 'log')
    writeFileSync(log, text)
  })

  await t.test('inspect gives the verdict of one device', async (t) => {
    const inspect = async (name: string) =>
      JSON.parse((await offbox('bundle', 'inspect', join(lab.home.registry, name), '--device', 'sw1', '--json')).out.trim())
    t.match(await inspect('telemetry/1.1.0.offbox'), {
      device: 'sw1',
      policyVersion: 1,
      verdict: { accepted: true },
      publishedBy: 'service-telemetry',
      sbom: { specVersion: '1.6' },
    })
    t.match(await inspect('telemetry/1.0.0.offbox'), { verdict: { accepted: false, code: 'BUNDLE_DOWNGRADE', reason: /sw1 runs 1\.1\.0/ } })
  })

  await t.test('other code under the same name is refuted, and what the repository or the policy no longer says is told', async (t) => {
    const path = join(lab.home.registry, 'telemetry/1.1.0.offbox')
    const kept = `${path}.kept`
    renameSync(path, kept)
    t.match((await asked('sw1', 'telemetry')).code, 5, 'no bundle, no commit and no keys')
    const other = await buildBundle(join(root, 'services/telemetry/releases/1.0.0'), '1.1.0')
    writeFileSync(path, signBundle(other.file, await readSigningKey(lab.home)))
    const swapped = await asked('sw1', 'telemetry')
    t.match(swapped, { code: 6, answer: { verdict: 'refuted' } })
    t.match(
      swapped.answer.statements.find(({ standing }) => standing === 'refuted'),
      { question: 'source', text: /other code under the same name/ },
    )
    rmSync(path)
    renameSync(kept, path)
    t.match(await asked('sw1', 'telemetry'), { code: 0 })
    t.match(await offbox('trust', 'policy', 'deny', 'telemetry'), { code: 0 })
    const denied = await asked('sw1', 'telemetry')
    t.match(denied, { code: 6 })
    t.match(
      denied.answer.statements.find(({ question }) => question === 'policy'),
      { standing: 'refuted', text: /would not let it run now: .*does not name telemetry/ },
    )
  })

  await t.test('what the gate saw is in the rollout that the controller tells of', async (t) => {
    const { code, out } = await offbox('rollout', 'get', 'r-0001', '--json')
    t.equal(code, 0)
    const rollout = JSON.parse(out) as { devices: { evidence: { health: string } }[] }
    t.same(
      rollout.devices.map(({ evidence }) => evidence.health),
      ['healthy', 'healthy'],
    )
  })
})
