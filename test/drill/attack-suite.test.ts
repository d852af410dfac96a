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

t.test('every attack is refused with the code that says why', { timeout: 250_000 }, async (t) => {
  const { code, verdict, stderr } = await runDrill(t, 'attack-suite')
  if (!t.equal(code, 0)) t.comment(stderr)
  t.match(verdict, { refused: verdict.attacks, misnamed: 0, accepted: [] })
  t.ok(verdict.attacks >= 60, `${verdict.attacks} attacks`)
})

t.test('without the defence that holds it, every such attack goes through, and the drill fails', { timeout: 250_000 }, async (t) => {
  for (const defence of ['signatures', 'expiry', 'memory', 'digests', 'witness', 'paths']) {
    const { code, verdict, stderr } = await runDrill(t, 'attack-suite', '--sabotage', defence)
    t.equal(code, 1, defence)
    if (!t.match(verdict, { refused: 0 }, `${verdict.attacks} held by ${defence}`)) t.comment(stderr)
    t.ok(verdict.attacks > 0)
  }
})

t.test('of the two that count signatures either alone holds', { timeout: 250_000 }, async (t) => {
  for (const lock of ['tuf-js', 'second-lock'])
    t.match(await runDrill(t, 'attack-suite', '--sabotage', lock, '--only', 'arbitrary'), { code: 0, verdict: { accepted: [] } }, lock)
})
