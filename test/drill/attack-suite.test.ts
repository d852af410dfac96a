import t from 'tap'
import { AttackScene, SetUpFailed } from './attack-suite/attack.ts'
import { runDrill } from './run-drill.ts'

t.test('a set-up that the device refuses is told apart from an attack that it refuses', async (t) => {
  const [path, scene] = ['services/telemetry/1.0.0.offbox', new AttackScene()]
  const told = async (order: Promise<unknown>) =>
    await order.then(
      () => t.fail('it was taken'),
      (error: unknown) => error,
    )
  t.notOk((await told(scene.order(path))) instanceof SetUpFailed)
  t.ok((await told(scene.honestOrder(path))) instanceof SetUpFailed)
})

t.test('every attack on the verifier is refused with the code that says why', { timeout: 250_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'attack-suite', '--level', 'verifier')
  if (!t.equal(code, 0)) t.comment(stderr)
  t.match(verdict, { refused: verdict.attacks, misnamed: [], accepted: [] })
  t.ok(verdict.attacks >= 60, `${verdict.attacks} attacks`)
})

t.test('without the defence that holds it, every such attack goes through, and the drill fails', { timeout: 250_000 }, async (t) => {
  for (const defence of ['signatures', 'expiry', 'memory', 'digests', 'witness', 'paths']) {
    const { code, verdict, stderr } = await runDrill(t, 'attack-suite', '--level', 'verifier', '--sabotage', defence)
    t.equal(code, 1, defence)
    if (!t.match(verdict, { refused: 0 }, `${verdict.attacks} held by ${defence}`)) t.comment(stderr)
    t.ok(verdict.attacks > 0)
  }
})

t.test('of the two that count signatures either alone holds', { timeout: 250_000 }, async (t) => {
  for (const lock of ['tuf-js', 'second-lock'])
    t.match(await runDrill(t, 'attack-suite', '--level', 'verifier', '--sabotage', lock, '--only', 'arbitrary'), { code: 0, verdict: { accepted: [] } }, lock)
})

t.test('a running device refuses one attack of each sort, changes nothing, and obeys its owners before and after', { timeout: 500_000 }, async (t) => {
  for (const [only, attacks] of [
    ['withheld:', 4],
    ['clock: a year back, to revive', 1],
  ] as const) {
    const { code, verdict, stderr } = await runDrill(t, 'attack-suite', '--level', 'device', '--only', only)
    if (!t.equal(code, 0, only)) t.comment(stderr)
    t.match(verdict, { attacks, refused: attacks, changed: [], stuck: [], untried: [] })
  }
})

t.test('a device that is built without its policy lets them through, and the drill fails', { timeout: 500_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'attack-suite', '--level', 'device', '--sabotage', 'policy', '--only', 'does not name')
  t.equal(code, 1)
  if (!t.match(verdict, { attacks: 1, refused: 0, accepted: ['stolen controller: a service that the policy does not name'], untried: [] })) t.comment(stderr)
})
