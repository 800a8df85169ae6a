// Older names of functions that driver_api.h maps to their newer forms.
#ifndef OLDER_API_H
#define OLDER_API_H

#include "driver_api.h"

#undef cuCtxCreate
#undef cuCtxDestroy
#undef cuCtxPopCurrent
#undef cuCtxPushCurrent
#undef cuEventDestroy
#undef cuLinkAddData
#undef cuLinkAddFile
#undef cuLinkCreate
#undef cuMemHostRegister
#undef cuStreamDestroy

CUresult cuCtxCreate(CUcontext *context, unsigned flags, CUdevice device);
CUresult cuCtxDestroy(CUcontext context);
CUresult cuCtxPopCurrent(CUcontext *context);
CUresult cuCtxPushCurrent(CUcontext context);
CUresult cuEventDestroy(CUevent event);
CUresult cuLinkAddData(CUlinkState link, int type, void *data, size_t bytes, const char *name, unsigned count, int *options, void **values);
CUresult cuLinkAddFile(CUlinkState link, int type, const char *path, unsigned count, int *options, void **values);
CUresult cuLinkCreate(unsigned count, int *options, void **values, CUlinkState *link);
CUresult cuMemHostRegister(void *host, size_t bytes, unsigned flags);
CUresult cuStreamDestroy(CUstream stream);

#endif
