// Lets PyTorch's CPU build take the device type CUDA for one that exists: it has one device, and no streams to wait for.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace c10::impl {

struct OneDevice final : public NoOpDeviceGuardImpl<DeviceType::CUDA> {
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Device getDevice() const override { return Device(DeviceType::CUDA, 0); }
  Device exchangeDevice(Device) const override { return Device(DeviceType::CUDA, 0); }
};

C10_REGISTER_GUARD_IMPL(CUDA, OneDevice)

} // namespace c10::impl
