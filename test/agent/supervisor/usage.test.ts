import t from 'tap'
import { blame, CpuWindow, memoryExcess, Unaccounted } from '../../../agent/supervisor/usage.ts'

const MIB = 2 ** 20

t.test('CPU use is judged over a whole window and not before', async (t) => {
  const cpu = new CpuWindow(10_000)
  for (let atMs = 0; atMs < 10_000; atMs += 1_000) {
    cpu.add(atMs, atMs * 0.9)
    t.equal(cpu.sustained(50), false, `after ${atMs} ms`)
  }
  cpu.add(10_000, 9_000)
  t.equal(cpu.sustained(50), true)
  t.equal(cpu.sustained(90), false, 'two clocks are compared: a little over is not over')
})

t.test('a burst within the window is forgiven', async (t) => {
  const cpu = new CpuWindow(10_000)
  for (let atMs = 0; atMs <= 30_000; atMs += 1_000) {
    cpu.add(atMs, Math.min(4_000, atMs))
    t.equal(cpu.sustained(50), false)
  }
  t.equal(cpu.percent(4_000), 0)
})

t.test('the CPU time of a new worker begins a new window', async (t) => {
  const cpu = new CpuWindow(1_000)
  cpu.add(0, 0)
  cpu.add(1_000, 1_000)
  t.equal(cpu.sustained(50), true)
  cpu.add(2_000, 10)
  t.equal(cpu.sustained(50), false)
  t.equal(cpu.percent(1_000), 0)
})

t.test('memory is over at the first byte over', async (t) => {
  t.equal(memoryExcess({ memoryBytes: 64 * MIB, cpuMs: 0 }, 64), undefined)
  t.match(memoryExcess({ memoryBytes: 200 * MIB, cpuMs: 0 }, 64), /200 MiB in use, 64 MiB allowed/)
})

t.test('slow growth that nobody reports is ordinary, a jump is not, and after a worker went everything is', async (t) => {
  const memory = new Unaccounted({ jumpMb: 100, riseMbPerSecond: 4 })
  for (let second = 0; second < 120; second++) t.equal(memory.jump(second * 1_000, (50 + second * 3) * MIB), 0)
  t.equal(memory.jump(120_000, 800 * MIB) > 300 * MIB, true)
  memory.forget()
  t.equal(memory.jump(121_000, 800 * MIB), 0)
})

t.test('blamed is who cannot answer, then who grew, then who worked', async (t) => {
  const idle = { mute: false, grownBytes: 0, cpuMs: 1 }
  const busy = { mute: false, grownBytes: 0, cpuMs: 90 }
  const grown = { mute: false, grownBytes: 50 * MIB, cpuMs: 5 }
  const mute = { mute: true, grownBytes: 0, cpuMs: 0 }
  t.equal(blame([idle, busy]), busy)
  t.equal(blame([idle, busy, grown]), grown)
  t.equal(blame([idle, busy, grown, mute]), mute)
  t.equal(blame([]), undefined)
})
